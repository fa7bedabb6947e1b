# Made from mmiformer/zoo/peers.py by tools/generate.py.
# PVTv2-B1; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './fpn_iformer_m_ade20k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmiformer.models.backbones.timm_features.TIMMFeatures',
        model_name='pvt_v2_b1',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/pvt_v2_b1.in1k/resolve/main/model.safetensors',
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
