// Backward: each block processes tiles of TILE queries for one head and computes the gradients of all their inputs.
//
// LANES threads for each query read the rows of the value again. Each row yields two results: its dot product with the
// gradient of the output, from which the gradients of position and weight follow; and a contribution to the gradient of
// the row itself, to which other queries contribute as well (`contributions.cuh`).
//
// Compile-time constants besides those of `samples.cuh`: DETERMINISTIC, and COARSE (number of the last levels, small
// and read by many queries, that are summed in shared memory first; 0 with DETERMINISTIC).
#include "contributions.cuh"

constexpr int OWN = (SAMPLES + LANES - 1) / LANES;  // samples of a thread: lane, lane + LANES, ...
constexpr int SUMS = LANES < 4 ? 4 / LANES : 1;     // dot products of the four corners that a thread ends up with

struct Kept {  // data of the samples of a tile
    Quad<int> corners[SAMPLES][TILE + 1];   // later, as floats, the products of their rows with the gradient
    Quad<float> shares[SAMPLES][TILE + 1];  // weights of the pixels at left, right, top, bottom
    Quad<float> rests[SAMPLES][TILE + 1];   // weight, scale along x and y, and which pixels are on the map, as bits
};

struct Query {  // data of a query, held by each of its threads
    int slot, lane, number;  // -1: no query, but its threads take part in the exchanges of the warp
    long long row;           // of (N, Q, H)
    float grad[PARTS][VECTOR];
};

// Sums of four numbers over LANES threads. Each thread gets SUMS of them, starting with number lane * 4 / LANES: in
// each step a thread gives away half of its numbers and adds to the other half, until it has one.
__device__ __forceinline__ void sum_over_lanes(float (&numbers)[4], int lane) {
    int count = 4;
#pragma unroll
    for (int step = LANES / 2; step; step /= 2) {
        count /= 2;
        if (count == 0) numbers[0] += __shfl_xor_sync(~0u, numbers[0], step);
#pragma unroll
        for (int i = 0; i < count; i++) {
            const bool upper = lane & step;
            const float given = upper ? numbers[i] : numbers[i + count], kept = upper ? numbers[i + count] : numbers[i];
            numbers[i] = kept + __shfl_xor_sync(~0u, given, step);
        }
    }
}

// Replaces the corners of sample k by the products of its four rows, and adds to the gradients of the rows.
__device__ __forceinline__ void multiply(
    const Job &job, Kept &kept, const Query &query, int k, const Value *value, const Target &target) {
    const Quad<int> corner = kept.corners[k][query.slot];
    const Quad<float> share = kept.shares[k][query.slot];
    const float weight = kept.rests[k][query.slot].top_left;
    const float top = share.bottom_left * weight, bottom = share.bottom_right * weight;
    const int pixels[4] = {corner.top_left, corner.top_right, corner.bottom_left, corner.bottom_right};
    const float factors[4] = {
        top * share.top_left, top * share.top_right, bottom * share.top_left, bottom * share.top_right};
    float products[4] = {};
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const int channel = (part * LANES + query.lane) * VECTOR;
        if (channel >= WIDTH) continue;
        float rows[4][VECTOR];
#pragma unroll
        for (int c = 0; c < 4; c++)
            Row<VALUE, VECTOR>::load(row_at(value + channel, pixels[c], job.heads * WIDTH * sizeof(Value)), rows[c]);
#pragma unroll
        for (int c = 0; c < 4; c++) {
#pragma unroll
            for (int i = 0; i < VECTOR; i++) products[c] = fmaf(rows[c][i], query.grad[part][i], products[c]);
            if (factors[c] != 0.f)  // 0 is outside the map; NaN is not 0
                target.add(k, pixels[c], channel, query.grad[part], factors[c]);
        }
    }
    sum_over_lanes(products, query.lane);
    if (LANES <= 4 || query.lane % (LANES / 4) == 0) {  // all threads of the query have read the corners
#pragma unroll
        for (int i = 0; i < SUMS; i++)
            ((float *)&kept.corners[k][query.slot])[query.lane * 4 / LANES + i] = products[i];
    }
}

// Returns the gradient of the weight of sample k, from its products, and stores those of its position.
__device__ __forceinline__ float differentiate(const Job &job, Kept &kept, const Query &query, int k) {
    const Quad<float> product = *(const Quad<float> *)&kept.corners[k][query.slot];
    const Quad<float> share = kept.shares[k][query.slot], rest = kept.rests[k][query.slot];
    const float left = share.top_left, right = share.top_right, top = share.bottom_left, bottom = share.bottom_right;
    const u32 on = bits_of(rest.bottom_right);
    const float along_top = left * product.top_left + right * product.top_right;
    const float along_bottom = left * product.bottom_left + right * product.bottom_right;
    const float across_top = (on & 2u ? product.top_right : 0.f) - (on & 1u ? product.top_left : 0.f);
    const float across_bottom = (on & 2u ? product.bottom_right : 0.f) - (on & 1u ? product.bottom_left : 0.f);
    const float x = (top * across_top + bottom * across_bottom) * rest.top_left;
    const float y = ((on & 8u ? along_bottom : 0.f) - (on & 4u ? along_top : 0.f)) * rest.top_left;
    const long long at = query.row * SAMPLES + k;
    const float moved[2] = {x * rest.top_right, y * rest.bottom_left};
    Row<FIRST, 2>::store(job.grad_first + 2 * at, moved);
    if (FUSED && job.grad_reference) {  // gradients of centre and size, in place of the products
        float offset[2];
        Row<FIRST, 2>::load(job.first + 2 * at, offset);
        const float along_x = x * job.levels[k / POINTS].width, along_y = y * job.levels[k / POINTS].height;
        const float half = 0.5f / POINTS;
        *(Quad<float> *)&kept.corners[k][query.slot] = {
            along_x, along_y, along_x * offset[0] * half, along_y * offset[1] * half};
    }
    return top * along_top + bottom * along_bottom;
}

// Stores the gradients of the weights, or those of the logits, which follow from them.
__device__ __forceinline__ void store_weights(
    const Job &job, const Kept &kept, const Query &query, const float (&gradients)[OWN]) {
    float weighted = 0.f;
    if (FUSED) {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int k = query.lane + i * LANES;
            if (k < SAMPLES) weighted = fmaf(kept.rests[k][query.slot].top_left, gradients[i], weighted);
        }
#pragma unroll
        for (int step = LANES / 2; step; step /= 2) weighted += __shfl_xor_sync(~0u, weighted, step);
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int k = query.lane + i * LANES;
        if (query.number < 0 || k >= SAMPLES) continue;
        float number[1] = {gradients[i]};
        if (FUSED) number[0] = kept.rests[k][query.slot].top_left * (gradients[i] - weighted);
        Row<SECOND, 1>::store(job.grad_second + query.row * SAMPLES + k, number);
    }
}

// Stores the gradients of the references of a query, (L, 2 or 4): sums over the points of each level.
__device__ __forceinline__ void store_references(
    const Job &job, const Kept &kept, const Query &query, int image, int head) {
    __syncwarp();
    if (query.number < 0) return;
    const long long row = ((long long)image * job.heads + head) * job.queries + query.number;
    for (int i = query.lane; i < LEVELS * job.reference_size; i += LANES) {
        const int level = i / job.reference_size, coordinate = i % job.reference_size;
        float sum = 0.f;
        for (int k = level * POINTS; k < (level + 1) * POINTS; k++)
            sum += ((const float *)&kept.corners[k][query.slot])[coordinate];
        job.grad_reference[row * LEVELS * job.reference_size + i] = sum;
    }
}

__device__ __forceinline__ void work_on_query(
    const Job &job, Kept &kept, int image, int head, int tile, int slot, const Value *value, const Target &target) {
    Query query = {slot, (int)threadIdx.x % LANES, query_at(job, tile, slot)};
    query.row = ((long long)image * job.queries + (query.number < 0 ? 0 : query.number)) * job.heads + head;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const int channel = (part * LANES + query.lane) * VECTOR;
        if (query.number >= 0 && channel < WIDTH)
            Row<VALUE, VECTOR>::load(job.grad_output + query.row * WIDTH + channel, query.grad[part]);
    }
#pragma unroll 2
    for (int k = 0; k < SAMPLES; k++) multiply(job, kept, query, k, value, target);
    __syncwarp();
    float gradients[OWN] = {};
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int k = query.lane + i * LANES;
        if (query.number >= 0 && k < SAMPLES) gradients[i] = differentiate(job, kept, query, k);
    }
    store_weights(job, kept, query, gradients);
    if (FUSED && job.grad_reference) store_references(job, kept, query, image, head);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) backward(const __grid_constant__ Job job) {
    __shared__ Kept kept;
    SHARED_TO_THE_END(float, on_chip);
    const int chunks = (job.tiles + job.tiles_each - 1) / job.tiles_each;
    const int head = blockIdx.x % job.heads, chunk = blockIdx.x / job.heads % chunks;
    const int image = blockIdx.x / job.heads / chunks;
    const Value *const value = job.value + ((long long)image * job.pixels * job.heads + head) * WIDTH;
    const Target target(job, image, head, on_chip);
    if (COARSE) target.clear(job);

    for (int tile = chunk * job.tiles_each; tile < job.tiles && tile < (chunk + 1) * job.tiles_each; tile++) {
        __syncthreads();  // all threads have read the samples of the previous tile
        place_samples(job, image, head, tile, [&](int k, int slot, const Sample &sample) {
            const Sides &x = sample.x, &y = sample.y;
            const u32 on = (u32)x.first_on | (u32)x.second_on << 1 | (u32)y.first_on << 2 | (u32)y.second_on << 3;
            kept.corners[k][slot] = corners_of(job, k, sample);
            kept.shares[k][slot] = {x.first_share, x.second_share, y.first_share, y.second_share};
            kept.rests[k][slot] = {sample.weight, sample.scale_x, sample.scale_y, float_of(on)};
        });
        __syncthreads();
        for (int slot = threadIdx.x / LANES; slot < TILE; slot += GROUPS)
            work_on_query(job, kept, image, head, tile, slot, value, target);
    }
    if (COARSE) {
        __syncthreads();
        target.flush(job);
    }
}
