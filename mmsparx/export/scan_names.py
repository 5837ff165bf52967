"""Names of the scans' nodes, which files and functions share."""

DOMAIN = 'mmsparx'
VERSION = 1
MAPS, SEQUENCES = 'SS2DScan', 'SelectiveScan'
