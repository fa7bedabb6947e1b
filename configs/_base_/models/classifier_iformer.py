# iFormer as a classifier (paper, section 4.1, and released code). A size's config states arch and channels.
_base_ = './image_classifier.py'

model = dict(
    backbone=dict(type='IFormer', arch='m', drop_path_rate=0.0),
    head=dict(
        type='mmiformer.models.heads.head.NormLinearClsHead',
        num_classes=1000,
        in_channels=384,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
    ),
    # One of them for each batch, half and half.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
