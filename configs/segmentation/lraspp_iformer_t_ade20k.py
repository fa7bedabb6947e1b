_base_ = './lraspp_iformer_m_ade20k.py'

# On the plain ImageNet weights: there are no distilled ones of this size.
model = dict(
    backbone=dict(
        arch='t',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_t.pth'
        ),
    ),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
)
