_base_ = './retinanet_mocovit_coco.py'

custom_imports = dict(imports=['mmiformer', 'mmpretrain.models'], allow_failed_imports=False)
# Needs timm. Its taps of stride 8, 16, 32; the last one is the 960 channels before pooling.
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.TIMMBackbone',
        model_name='mobilenetv3_large_100',
        features_only=True,
        pretrained=True,
        out_indices=(2, 3, 4),
    ),
    neck=dict(in_channels=[40, 112, 960]),
)
