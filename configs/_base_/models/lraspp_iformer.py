# LR-ASPP, the light head of MobileNetV3, on an iFormer: mmseg's widths, and a third branch for the map of
# stride 16. A size's config states arch, checkpoint and channels.
_base_ = './encoder_decoder_iformer.py'

model = dict(
    decode_head=dict(
        type='mmiformer.models.heads.lraspp.LRASPPHead',
        in_channels=[48, 96, 192, 384],
        in_index=[0, 1, 2, 3],
        input_transform='multiple_select',
        branch_channels=(32, 64, 128),
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        # mmengine's runner makes it a plain BatchNorm where one process trains, and logs that.
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
