_base_ = './iformer_m_in1k.py'

model = dict(backbone=dict(arch='l', drop_path_rate=0.1), head=dict(in_channels=384))
