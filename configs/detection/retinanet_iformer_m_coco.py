_base_ = './retinanet_mocovit_coco.py'

# Not published: for comparison with MoCoViT under its recipe.
model = dict(
    backbone=dict(
        _delete_=True,
        type='IFormer',
        arch='m',
        out_indices=(1, 2, 3),
        window_size=16,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_m_distill.pth',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384]),
)
