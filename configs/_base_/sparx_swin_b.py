# SparX-Swin-B (Table 8). The paper's text gives no drop path; Swin-B's is used.
_base_ = './sparx_swin.py'

backbone = dict(type='mmsparx.SparXSwin', arch='base', drop_path_rate=0.5)
channels = [120, 240, 396, 616]
