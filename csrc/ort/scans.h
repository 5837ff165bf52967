// The scans as nodes; mmsparx/export/scan_functions.py says what they take and what they give.

#pragma once

#include "node.h"

namespace mmsparx::ort {

void cross_scan(const Node& node);
void sequence_scan(const Node& node);

}  // namespace mmsparx::ort
