_base_ = './upernet_iformer_m_ade20k.py'

model = dict(
    backbone=dict(
        arch='l2',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_l2_distill.pth'
        ),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
