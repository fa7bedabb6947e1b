_base_ = './rtmdet_iformer_t_bccd.py'

model = dict(
    backbone=dict(_delete_=True, type='MoCoViT', arch='1.0', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[40, 112, 160]),
)
