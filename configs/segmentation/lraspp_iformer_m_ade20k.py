_base_ = [
    '../_base_/models/lraspp_iformer.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_40k.py',
    '../_base_/default_runtime_seg.py',
]

# Not published. mmseg has LR-ASPP for Cityscapes only: the recipe of iFormer's Semantic FPN, to compare with.
model = dict(
    backbone=dict(
        arch='m',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_m_distill.pth'
        ),
    ),
)
