// Forward: each block gathers the samples of TILE queries for one head.
//
// Two steps. First, one thread for each sample computes the pixels of its corners and their weights, which include the
// attention weight. Then LANES threads for each query sum the rows of the value at these pixels, in float32.
#include "samples.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) forward(const __grid_constant__ Job job) {
    // One row of padding, without which the writes of neighbouring samples would conflict in one bank.
    __shared__ Quad<int> corners[SAMPLES][TILE + 1];
    __shared__ Quad<float> shares[SAMPLES][TILE + 1];

    // All heads of a tile run concurrently, since their rows are adjacent. Images follow one another, since the value
    // of one image fits into the L2 cache.
    const int head = blockIdx.x % job.heads, tile = blockIdx.x / job.heads % job.tiles;
    const int image = blockIdx.x / job.heads / job.tiles;
    place_samples(job, image, head, tile, [&](int k, int slot, const Sample &sample) {
        const float top = sample.y.first_share * sample.weight, bottom = sample.y.second_share * sample.weight;
        corners[k][slot] = corners_of(job, k, sample);
        shares[k][slot] = {top * sample.x.first_share, top * sample.x.second_share, bottom * sample.x.first_share,
                           bottom * sample.x.second_share};
    });
    __syncthreads();

    const int lane = threadIdx.x % LANES;
    const u32 stride = job.heads * WIDTH * sizeof(Value);
    for (int slot = threadIdx.x / LANES; slot < TILE; slot += GROUPS) {
        const int query = query_at(job, tile, slot);
        if (query < 0) continue;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            const int channel = (part * LANES + lane) * VECTOR;
            if (channel >= WIDTH) continue;
            const Value *value = job.value + ((long long)image * job.pixels * job.heads + head) * WIDTH + channel;
            float sum[VECTOR] = {};
#pragma unroll 4
            for (int k = 0; k < SAMPLES; k++) {
                const Quad<int> corner = corners[k][slot];
                const Quad<float> share = shares[k][slot];
                float row[4][VECTOR];
                Row<VALUE, VECTOR>::load(row_at(value, corner.top_left, stride), row[0]);
                Row<VALUE, VECTOR>::load(row_at(value, corner.top_right, stride), row[1]);
                Row<VALUE, VECTOR>::load(row_at(value, corner.bottom_left, stride), row[2]);
                Row<VALUE, VECTOR>::load(row_at(value, corner.bottom_right, stride), row[3]);
#pragma unroll
                for (int i = 0; i < VECTOR; i++) {
                    sum[i] = fmaf(row[0][i], share.top_left, sum[i]);
                    sum[i] = fmaf(row[1][i], share.top_right, sum[i]);
                    sum[i] = fmaf(row[2][i], share.bottom_left, sum[i]);
                    sum[i] = fmaf(row[3][i], share.bottom_right, sum[i]);
                }
            }
            const long long at = ((long long)image * job.queries + query) * job.heads + head;
            Row<VALUE, VECTOR>::store(job.output + at * WIDTH + channel, sum);
        }
    }
}
