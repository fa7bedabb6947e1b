# Made from mmiformer/zoo/peers.py by tools/generate.py.
# EfficientFormerV2-L; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './maskrcnn_iformer_m_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmiformer.models.backbones.efficientformer.EfficientFormerFeatures',
        model_name='efficientformerv2_l',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/efficientformerv2_l.snap_dist_in1k/resolve/main/model.safetensors',
        ),
    ),
    neck=dict(in_channels=[40, 80, 192, 384]),
)
