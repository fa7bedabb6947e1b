_base_ = './rtmdet_iformer_m_coco.py'

model = dict(
    backbone=dict(
        arch='s',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_s.pth'
        ),
    ),
    neck=dict(in_channels=[64, 176, 320]),
)
