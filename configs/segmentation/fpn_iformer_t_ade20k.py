_base_ = './fpn_iformer_m_ade20k.py'

# Not published at this size: the recipe of M, on the plain (not distilled) ImageNet weights.
model = dict(
    backbone=dict(
        arch='t',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_t.pth'
        ),
    ),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
