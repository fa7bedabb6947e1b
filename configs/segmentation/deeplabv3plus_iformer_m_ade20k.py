_base_ = [
    '../_base_/models/deeplabv3plus_iformer.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_40k.py',
    '../_base_/default_runtime_seg.py',
]

# Not published. The recipe of iFormer's Semantic FPN, to compare with.
model = dict(
    backbone=dict(
        arch='m',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_m_distill.pth'
        ),
    ),
)
