_base_ = './fpn_iformer_m_ade20k.py'

model = dict(
    backbone=dict(
        arch='l',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_l_distill.pth'
        ),
    ),
    neck=dict(in_channels=[48, 96, 256, 384]),
)
