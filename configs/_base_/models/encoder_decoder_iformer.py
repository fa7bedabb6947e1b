# What the segmentors share: preprocessing, an iFormer, inference on the whole image.
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
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
