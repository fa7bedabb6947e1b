_base_ = './rtmdet_iformer_t_coco.py'

# See retinanet_mocovit_coco.py for the weights.
model = dict(
    backbone=dict(
        _delete_=True,
        type='MoCoViT',
        arch='1.0',
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/mocovit_in1k/epoch_400.pth'),
    ),
    neck=dict(in_channels=[40, 112, 160]),
)
