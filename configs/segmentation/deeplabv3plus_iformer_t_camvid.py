# lraspp_iformer_t_camvid.py with the head of deeplabv3plus_iformer_t_ade20k.py.
_base_ = './fpn_iformer_t_camvid.py'

model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='DepthwiseSeparableASPPHead',
        in_channels=256,
        in_index=3,
        channels=64,
        dilations=(1, 2, 4, 6),
        c1_in_channels=32,
        c1_channels=32,
        num_classes=11,
        dropout_ratio=0.1,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=_base_.model.decode_head.loss_decode,
    ),
)
