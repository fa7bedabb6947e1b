_base_ = [
    '../_base_/models/retinanet_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x_sgd.py',
    '../_base_/default_runtime_det.py',
]

# Needs timm and mmpretrain. timm's taps of stride 8, 16, 32; the last one is the 960 channels before pooling.
model = dict(
    backbone=dict(
        type='mmiformer.models.backbones.timm_features.TIMMFeatures',
        model_name='mobilenetv3_large_100',
        out_indices=(2, 3, 4),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/mobilenetv3_large_100.ra_in1k/resolve/main/model.safetensors',
        ),
    ),
    neck=dict(in_channels=[40, 112, 960]),
)
