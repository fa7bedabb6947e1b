_base_ = './retinanet_mocovit_bccd.py'

model = dict(
    backbone=dict(_delete_=True, type='IFormer', arch='t', out_indices=(1, 2, 3), window_size=16),
    neck=dict(in_channels=[64, 128, 256]),
)
