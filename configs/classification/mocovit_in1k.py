_base_ = [
    '../_base_/models/image_classifier.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_400e_sgd.py',
    '../_base_/default_runtime_cls.py',
]

model = dict(
    backbone=dict(type='MoCoViT', arch='1.0'),
    head=dict(
        type='mmiformer.models.heads.head.GhostClsHead',
        num_classes=1000,
        in_channels=160,
        dropout=0.2,  # GhostNet's code.
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),  # As those who reproduced GhostNet.
    ),
)
# Crops, flips and jittered colours: GhostNet's code (huawei-noah/Efficient-AI-Backbones#53); no mixing, which
# small networks do not need (GhostNetV3, arXiv 2404.11202).
train_pipeline = [
    _base_.load_image,
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))  # Of each of 8 GPUs.
