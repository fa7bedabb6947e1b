# Made from mmiformer/zoo/peers.py by tools/generate.py.
# FastViT-SA12; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './maskrcnn_iformer_m_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmiformer.models.backbones.timm_features.TIMMFeatures',
        model_name='fastvit_sa12',
        out_indices=(0, 1, 2, 3),
        out_norm_cfg=dict(type='BN'),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/fastvit_sa12.apple_in1k/resolve/main/model.safetensors',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
