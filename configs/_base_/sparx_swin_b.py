# SparX-Swin-B (Table 8). The paper's text has no drop path: that of Swin-B.
_base_ = './sparx_swin.py'

backbone = dict(type='mmsparx.SparXSwin', arch='base', drop_path_rate=0.5)
channels = [120, 240, 396, 616]
