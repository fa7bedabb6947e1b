# Made from mmiformer/zoo/peers.py by tools/generate.py.
# PoolFormer-S12; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './fpn_iformer_m_ade20k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmiformer.models.backbones.timm_features.TIMMFeatures',
        model_name='poolformer_s12',
        out_indices=(0, 1, 2, 3),
        out_norm_cfg=dict(type='GN', num_groups=1),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/poolformer_s12.sail_in1k/resolve/main/model.safetensors',
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
