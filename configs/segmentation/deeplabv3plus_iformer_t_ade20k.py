_base_ = './deeplabv3plus_iformer_m_ade20k.py'

# On the plain ImageNet weights: there are no distilled ones of this size.
model = dict(
    backbone=dict(
        arch='t',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_t.pth'
        ),
    ),
    decode_head=dict(in_channels=256, c1_in_channels=32),
)
