_base_ = [
    '../_base_/models/retinanet_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x_sgd.py',
    '../_base_/default_runtime_det.py',
]

# Not published: for comparison with MoCoViT under its recipe.
model = dict(
    backbone=dict(
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
