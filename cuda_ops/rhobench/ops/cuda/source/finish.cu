// Converts the integer sums of a deterministic backward pass to the gradient of the value.
#include "contributions.cuh"

extern "C" __global__ void __launch_bounds__(256) finish(const __grid_constant__ Job job) {
    const long long count = (long long)job.images * job.pixels * job.heads * WIDTH;
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const float largest = *job.largest;
    const Unit unit = Unit(job).inverse();
    float number[1] = {__ll2float_rn(((const long long *)job.grad_value)[i]) * unit.first * unit.second};
    if (!(largest < INFINITY_)) number[0] = NAN_;  // integers cannot represent NaN
    Row<VALUE, 1>::store(job.output + i, number);
}
