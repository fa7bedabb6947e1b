# Made from mmiformer/zoo/peers.py by tools/generate.py.
# RepViT-M1.5; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './maskrcnn_iformer_m_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmiformer.models.backbones.timm_features.TIMMFeatures',
        model_name='repvit_m1_5',
        out_indices=(0, 1, 2, 3),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/repvit_m1_5.dist_300e_in1k/resolve/main/model.safetensors',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
