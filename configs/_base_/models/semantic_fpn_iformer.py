# Semantic FPN with mmseg's standard head of 128 channels on an iFormer (paper, appendix: the setting of
# PoolFormer). A size's config states arch, checkpoint and the FPN's in_channels.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),  # Of training crops; images are tested unpadded.
    ),
    backbone=dict(
        type='IFormer',
        arch='m',
        out_indices=(0, 1, 2, 3),
        window_size=16,
        # As published: BatchNorm runs on the stored statistics of the ImageNet weights, its affine
        # parameters are trained. From scratch this does not train: set norm_eval=False then.
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=''),
    ),
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
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
