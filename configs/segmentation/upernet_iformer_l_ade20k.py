_base_ = './upernet_iformer_m_ade20k.py'

model = dict(
    backbone=dict(
        arch='l',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_l_distill.pth'
        ),
    ),
    decode_head=dict(in_channels=[48, 96, 256, 384]),
    auxiliary_head=dict(in_channels=256),
)
