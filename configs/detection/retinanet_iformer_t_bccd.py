_base_ = './retinanet_mocovit_bccd.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='IFormer',
        arch='t',
        out_indices=(1, 2, 3),
        window_size=16,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_t.pth',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256]),
)
