# Made from mmiformer/zoo/peers.py by tools/generate.py.
# EfficientNet-B0; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './maskrcnn_iformer_m_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmiformer.models.backbones.timm_features.TIMMFeatures',
        model_name='efficientnet_b0',
        out_indices=(1, 2, 3, 4),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/efficientnet_b0.ra_in1k/resolve/main/model.safetensors',
        ),
    ),
    neck=dict(in_channels=[24, 40, 112, 320]),
)
