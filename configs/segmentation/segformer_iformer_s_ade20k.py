_base_ = './segformer_iformer_m_ade20k.py'

# On the plain ImageNet weights: there are no distilled ones of this size.
model = dict(
    backbone=dict(
        arch='s',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_s.pth'
        ),
    ),
    decode_head=dict(in_channels=[32, 64, 176, 320], channels=192),
)
