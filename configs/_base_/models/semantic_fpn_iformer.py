# Semantic FPN with mmseg's standard head of 128 channels on an iFormer (paper, appendix: the setting of
# PoolFormer). A size's config states arch, checkpoint and the FPN's in_channels.
_base_ = './encoder_decoder_iformer.py'

model = dict(
    neck=dict(type='FPN', in_channels=[48, 96, 192, 384], out_channels=256, num_outs=4),
    decode_head=dict(
        type='FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        # mmengine's runner makes it a plain BatchNorm where one process trains, and logs that.
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
