// The scans as nodes; mmsparx/export/scan_functions.py documents their inputs and outputs.

#pragma once

#include "node.h"

namespace mmsparx::ort {

void cross_scan(const Node& node);
void sequence_scan(const Node& node);

}  // namespace mmsparx::ort
