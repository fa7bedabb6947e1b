_base_ = './retinanet_iformer_m_coco.py'

model = dict(
    backbone=dict(
        arch='t',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_t.pth'
        ),
    ),
    neck=dict(in_channels=[64, 128, 256]),
)
