_base_ = './retinanet_mocovit_bccd.py'

model = dict(
    backbone=dict(
        arch='ghostnet',
        init_cfg=dict(
            checkpoint='https://huggingface.co/timm/ghostnet_100.in1k/resolve/main/model.safetensors'
        ),
    ),
)
