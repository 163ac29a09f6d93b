// The functions of cuBLAS that ggml calls, each of which looks for the library when it is first called: a program that is
// linked to cuBLAS would not start on a machine without it.
#include <cublas_v2.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char * curtail_cublas_name(void) {
    return "libcublas.so." TEXT(CUBLAS_VER_MAJOR);
}

// Where the system looks, then in the toolkit that the environment names.
static void * library(void) {
    static void * found;
    const char * homes[] = { getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda" };
    const char * folders[] = { "lib64", "lib" };
    if (!found) {
        found = dlopen(curtail_cublas_name(), RTLD_LAZY | RTLD_GLOBAL);
    }
    for (size_t i = 0; !found && i < sizeof(homes) / sizeof(*homes); i++) {
        for (size_t j = 0; !found && homes[i] && j < sizeof(folders) / sizeof(*folders); j++) {
            char path[4096];
            snprintf(path, sizeof(path), "%s/%s/%s", homes[i], folders[j], curtail_cublas_name());
            found = dlopen(path, RTLD_LAZY | RTLD_GLOBAL);
        }
    }
    return found;
}

int curtail_find_cublas(void) {
    return library() != NULL;
}

static void * find(const char * name) {
    void * from = library();
    return from ? dlsym(from, name) : NULL;
}

#define FORWARD(name, params, args)                                 \
    cublasStatus_t name params {                                    \
        static cublasStatus_t(*real) params;                        \
        if (!real) {                                                \
            *(void **) &real = find(#name);                         \
        }                                                           \
        return real ? real args : CUBLAS_STATUS_NOT_INITIALIZED;    \
    }

FORWARD(cublasCreate_v2, (cublasHandle_t * handle), (handle))
FORWARD(cublasDestroy_v2, (cublasHandle_t handle), (handle))
FORWARD(cublasSetStream_v2, (cublasHandle_t handle, cudaStream_t stream), (handle, stream))
FORWARD(cublasSetMathMode, (cublasHandle_t handle, cublasMath_t mode), (handle, mode))
FORWARD(cublasSetWorkspace_v2, (cublasHandle_t handle, void * workspace, size_t bytes), (handle, workspace, bytes))
FORWARD(cublasLoggerConfigure, (int on, int to_stdout, int to_stderr, const char * file), (on, to_stdout, to_stderr, file))
FORWARD(cublasSgemm_v2,
        (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const float * alpha,
         const float * a, int lda, const float * b, int ldb, const float * beta, float * c, int ldc),
        (handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))
FORWARD(cublasSgemmBatched,
        (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const float * alpha,
         const float * const a[], int lda, const float * const b[], int ldb, const float * beta, float * const c[], int ldc,
         int count),
        (handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, count))
FORWARD(cublasSgemmStridedBatched,
        (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const float * alpha,
         const float * a, int lda, long long int stride_a, const float * b, int ldb, long long int stride_b,
         const float * beta, float * c, int ldc, long long int stride_c, int count),
        (handle, op_a, op_b, m, n, k, alpha, a, lda, stride_a, b, ldb, stride_b, beta, c, ldc, stride_c, count))
FORWARD(cublasGemmEx,
        (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void * alpha,
         const void * a, cudaDataType type_a, int lda, const void * b, cudaDataType type_b, int ldb, const void * beta,
         void * c, cudaDataType type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algo),
        (handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc, compute, algo))
FORWARD(cublasGemmBatchedEx,
        (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void * alpha,
         const void * const a[], cudaDataType type_a, int lda, const void * const b[], cudaDataType type_b, int ldb,
         const void * beta, void * const c[], cudaDataType type_c, int ldc, int count, cublasComputeType_t compute,
         cublasGemmAlgo_t algo),
        (handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc, count, compute, algo))
FORWARD(cublasGemmStridedBatchedEx,
        (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void * alpha,
         const void * a, cudaDataType type_a, int lda, long long int stride_a, const void * b, cudaDataType type_b, int ldb,
         long long int stride_b, const void * beta, void * c, cudaDataType type_c, int ldc, long long int stride_c, int count,
         cublasComputeType_t compute, cublasGemmAlgo_t algo),
        (handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, stride_a, b, type_b, ldb, stride_b, beta, c, type_c, ldc,
         stride_c, count, compute, algo))
FORWARD(cublasStrsmBatched,
        (cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t op, cublasDiagType_t diag,
         int m, int n, const float * alpha, const float * const a[], int lda, float * const b[], int ldb, int count),
        (handle, side, uplo, op, diag, m, n, alpha, a, lda, b, ldb, count))

const char * cublasGetStatusString(cublasStatus_t status) {
    static const char * (*real)(cublasStatus_t);
    if (!real) {
        *(void **) &real = find("cublasGetStatusString");
    }
    return real ? real(status) : "cuBLAS is missing";
}
