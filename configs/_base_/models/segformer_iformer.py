# mmseg's head of SegFormer on an iFormer: each map through a 1x1 convolution to a common width, and all of
# them fused at stride 4. A size's config states arch, checkpoint and channels; its width leaves the head at
# most 40 % of the multiply-adds at 512x512 (M has the 256 of mmseg's SegFormer-B0).
_base_ = './encoder_decoder_iformer.py'

model = dict(
    decode_head=dict(
        type='SegformerHead',
        in_channels=[48, 96, 192, 384],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        # mmengine's runner makes it a plain BatchNorm where one process trains, and logs that.
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
