_base_ = './lraspp_iformer_m_ade20k.py'

# See retinanet_mocovit_coco.py for the weights.
model = dict(
    backbone=dict(
        _delete_=True,
        type='MoCoViT',
        arch='1.0',
        out_indices=(0, 1, 2, 3),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/mocovit_in1k/epoch_400.pth'),
    ),
    decode_head=dict(in_channels=[24, 40, 112, 160]),
)
