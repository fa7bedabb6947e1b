# lraspp_iformer_t_camvid.py with the head of segformer_iformer_t_ade20k.py.
_base_ = './fpn_iformer_t_camvid.py'

model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[32, 64, 128, 256],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=_base_.model.decode_head.loss_decode,
    ),
)
