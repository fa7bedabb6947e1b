# DeepLabV3+ on an iFormer: mmseg's head with depthwise separable convolutions, narrow, with dilations for a
# map of stride 32 (mmseg's are for stride 8). A size's config states arch, checkpoint and channels.
_base_ = './encoder_decoder_iformer.py'

model = dict(
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=384,
        in_index=3,
        channels=64,
        dilations=(1, 2, 4, 6),
        c1_in_channels=48,
        c1_channels=32,
        dropout_ratio=0.1,
        num_classes=150,
        # mmengine's runner makes it a plain BatchNorm where one process trains, and logs that.
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
