/* The oracle behind the goldens: asks llama.cpp, through its public C interface, what it computes.
 *
 * Nothing of lowtide is linked or run here, and neither the build nor the tests need this file:
 * `cargo xtask goldens` compiles and runs it when a person regenerates the data.
 *
 *   oracle text   REFERENCE MODEL TEXT CONTEXT EVERY   likelihood of a text, chunk by chunk
 *   oracle greedy REFERENCE MODEL PROMPTS COUNT        greedy continuations, a prompt per line
 *   oracle logits exact|default MODEL EVERY ID...      logits at some positions of given ids
 *
 * REFERENCE holds the same weights as MODEL, dequantised to F32. It is run with f32 activations and
 * an f32 KV cache, so that the difference between the two is what quantised activations cost.
 * `exact` runs MODEL in the same way. Else MODEL is run with llama.cpp's defaults. Everything goes to standard output as JSON.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

#define TOP 8
#define THREADS 2

static void die(const char *what, const char *which) {
    fprintf(stderr, "oracle: %s: %s\n", what, which);
    exit(1);
}

static void quiet(enum ggml_log_level level, const char *text, void *user) {
    (void)user;
    if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

struct net {
    struct llama_model *model;
    struct llama_context *ctx;
    const struct llama_vocab *vocab;
    int n_vocab;
};

static struct net net_open(const char *path, int n_ctx, bool exact) {
    struct llama_model_params mp = llama_model_default_params();
    struct net net = {.model = llama_model_load_from_file(path, mp)};
    if (!net.model) die("cannot load", path);
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = cp.n_batch = cp.n_ubatch = n_ctx;
    cp.n_threads = cp.n_threads_batch = THREADS;
    if (exact) {
        cp.type_k = cp.type_v = GGML_TYPE_F32;
        cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    net.ctx = llama_init_from_model(net.model, cp);
    if (!net.ctx) die("cannot make a context for", path);
    net.vocab = llama_model_get_vocab(net.model);
    net.n_vocab = llama_vocab_n_tokens(net.vocab);
    return net;
}

static void net_close(struct net *net) {
    llama_free(net->ctx);
    llama_model_free(net->model);
}

/* Runs `n` ids from position `at`; logits are kept for ids `first..n`. */
static void net_run(struct net *net, const llama_token *ids, int n, int at, int first) {
    struct llama_batch batch = llama_batch_init(n, 0, 1);
    for (int i = 0; i < n; i++) {
        batch.token[i] = ids[i];
        batch.pos[i] = at + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i >= first;
    }
    batch.n_tokens = n;
    if (at == 0) llama_memory_clear(llama_get_memory(net->ctx), true);
    if (llama_decode(net->ctx, batch)) die("decode failed", "");
    llama_batch_free(batch);
}

static double log_sum_exp(const float *x, int n) {
    float max = x[0];
    for (int i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - max);
    return max + log(sum);
}

/* The `k` largest, largest first; the lower id wins a tie. */
static void top_k(const float *x, int n, int k, int *out) {
    for (int i = 0; i < k; i++) out[i] = -1;
    for (int id = 0; id < n; id++) {
        int slot = k;
        while (slot > 0 && (out[slot - 1] < 0 || x[id] > x[out[slot - 1]])) slot--;
        if (slot == k) continue;
        memmove(out + slot + 1, out + slot, (k - 1 - slot) * sizeof(int));
        out[slot] = id;
    }
}

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) die("cannot open", path);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    char *text = malloc(size + 1);
    if (fread(text, 1, size, f) != (size_t)size) die("cannot read", path);
    text[size] = 0;
    fclose(f);
    return text;
}

static llama_token *tokenize(const struct net *net, const char *text, int *n) {
    int cap = (int)strlen(text) + 8;
    llama_token *ids = malloc(cap * sizeof *ids);
    *n = llama_tokenize(net->vocab, text, (int)strlen(text), ids, cap, true, false);
    if (*n < 0) die("cannot tokenize", text);
    return ids;
}

static void print_ids(const char *name, const llama_token *ids, int n) {
    printf("\"%s\": [", name);
    for (int i = 0; i < n; i++) printf("%s%d", i ? "," : "", ids[i]);
    printf("]");
}

static void print_nlls(const char *name, const double *x, int n) {
    printf("\"%s\": [", name);
    for (int i = 0; i < n; i++) printf("%s%.4f", i ? "," : "", x[i]);
    printf("]");
}

struct sums {
    double kl, coarse_kl, nll_reference, nll_model;
    long positions, sampled, same_top;
};

/* Compares one position: p the reference's logits, q the model's. Fills the reference's TOP ids. */
static void compare(const float *p, const float *q, int n, bool sample, struct sums *s,
                    int *top, double *top_logprob) {
    const double p_sum = log_sum_exp(p, n), q_sum = log_sum_exp(q, n);
    double kl = 0;
    for (int i = 0; i < n; i++) {
        const double lp = p[i] - p_sum, lq = q[i] - q_sum;
        kl += exp(lp) * (lp - lq);
    }
    int q_best;
    top_k(q, n, 1, &q_best);
    top_k(p, n, TOP, top);
    s->kl += kl;
    s->positions++;
    s->same_top += top[0] == q_best;
    if (!sample) return;
    double p_rest = 1, q_rest = 1, coarse = 0;
    for (int i = 0; i < TOP; i++) {
        const double lp = p[top[i]] - p_sum, lq = q[top[i]] - q_sum;
        top_logprob[i] = lp;
        coarse += exp(lp) * (lp - lq);
        p_rest -= exp(lp);
        q_rest -= exp(lq);
    }
    if (p_rest > 1e-9 && q_rest > 1e-9) coarse += p_rest * log(p_rest / q_rest);
    s->coarse_kl += coarse;
    s->sampled++;
}

static void text_chunk(struct net *ref, struct net *mod, const llama_token *org, llama_token *ids,
                       int n_ctx, int every, struct sums *s) {
    const int first = n_ctx / 2, n = ref->n_vocab, scored = n_ctx - 1 - first;
    if (llama_vocab_get_add_bos(ref->vocab)) ids[0] = llama_vocab_bos(ref->vocab);
    net_run(ref, ids, n_ctx, 0, first);
    net_run(mod, ids, n_ctx, 0, first);
    double *nll_ref = malloc(scored * sizeof *nll_ref), *nll_mod = malloc(scored * sizeof *nll_mod);
    printf("{");
    print_ids("tokens", org, n_ctx);
    printf(",\n \"top\": [");
    for (int i = 0; i < scored; i++) {
        const float *p = llama_get_logits_ith(ref->ctx, first + i);
        const float *q = llama_get_logits_ith(mod->ctx, first + i);
        const int next = org[first + i + 1];
        nll_ref[i] = log_sum_exp(p, n) - p[next];
        nll_mod[i] = log_sum_exp(q, n) - q[next];
        s->nll_reference += nll_ref[i];
        s->nll_model += nll_mod[i];
        int top[TOP];
        double logprob[TOP];
        const bool sample = i % every == 0;
        compare(p, q, n, sample, s, top, logprob);
        if (!sample) continue;
        printf("%s[%d", i ? "," : "", first + i);
        for (int k = 0; k < TOP; k++) printf(",[%d,%.4f]", top[k], logprob[k]);
        printf("]");
    }
    printf("],\n ");
    print_nlls("nll_reference", nll_ref, scored);
    printf(",\n ");
    print_nlls("nll_model", nll_mod, scored);
    printf("}");
    free(nll_ref);
    free(nll_mod);
}

static void text(char **argv) {
    const int n_ctx = atoi(argv[3]), every = atoi(argv[4]);
    if (n_ctx < 4 || every < 1) die("bad numbers", argv[3]);
    struct net ref = net_open(argv[0], n_ctx, true), mod = net_open(argv[1], n_ctx, false);
    char *body = read_file(argv[2]);
    size_t length = strlen(body);
    if (length && body[length - 1] == '\n') body[length - 1] = 0;
    int n_ids;
    llama_token *ids = tokenize(&ref, body, &n_ids);
    const int chunks = n_ids / n_ctx;
    struct sums s = {0};
    llama_token *work = malloc(n_ctx * sizeof *work);
    printf("{\"context\": %d, \"first_scored\": %d, \"chunks\": [\n", n_ctx, n_ctx / 2);
    for (int c = 0; c < chunks; c++) {
        memcpy(work, ids + c * n_ctx, n_ctx * sizeof *work);
        if (c) printf(",\n");
        text_chunk(&ref, &mod, ids + c * n_ctx, work, n_ctx, every, &s);
        fprintf(stderr, "chunk %d of %d\r", c + 1, chunks);
    }
    printf("],\n\"positions\": %ld, \"perplexity_reference\": %.6f, \"perplexity_model\": %.6f,\n",
           s.positions, exp(s.nll_reference / s.positions), exp(s.nll_model / s.positions));
    printf("\"mean_kl\": %.8f, \"same_top\": %.6f, \"sampled\": %ld, \"mean_coarse_kl\": %.8f}\n",
           s.kl / s.positions, (double)s.same_top / s.positions, s.sampled, s.coarse_kl / s.sampled);
    net_close(&ref);
    net_close(&mod);
}

static void greedy_one(struct net *ref, struct net *mod, const char *prompt, int count) {
    int n;
    llama_token *ids = tokenize(mod, prompt, &n);
    ids = realloc(ids, (n + count) * sizeof *ids);
    int *second = malloc(count * sizeof *second), made = 0;
    double *gap = malloc(count * sizeof *gap);
    net_run(mod, ids, n, 0, n - 1);
    for (; made < count; made++) {
        const float *x = llama_get_logits_ith(mod->ctx, -1);
        int top[2];
        top_k(x, mod->n_vocab, 2, top);
        ids[n + made] = top[0];
        second[made] = top[1];
        gap[made] = (double)x[top[0]] - x[top[1]];
        if (llama_vocab_is_eog(mod->vocab, top[0])) { made++; break; }
        if (made + 1 < count) net_run(mod, ids + n + made, 1, n + made, 0);
    }
    net_run(ref, ids, n + made - 1, 0, n - 1);
    printf("{");
    print_ids("prompt_ids", ids, n);
    printf(",\n ");
    print_ids("ids", ids + n, made);
    printf(",\n \"steps\": [");
    for (int i = 0; i < made; i++) {
        const float *x = llama_get_logits_ith(ref->ctx, n - 1 + i);
        printf("%s[%d,%.4f,%.4f]", i ? "," : "", second[i], gap[i],
               (double)x[ids[n + i]] - x[second[i]]);
    }
    printf("]}");
    free(ids);
    free(second);
    free(gap);
}

static void greedy(char **argv) {
    const int count = atoi(argv[3]);
    if (count < 1) die("bad count", argv[3]);
    struct net ref = net_open(argv[0], 512, true), mod = net_open(argv[1], 512, false);
    char *line = strtok(read_file(argv[2]), "\n");
    printf("[\n");
    for (bool started = false; line; line = strtok(NULL, "\n"), started = true) {
        if (started) printf(",\n");
        greedy_one(&ref, &mod, line, count);
    }
    printf("]\n");
    net_close(&ref);
    net_close(&mod);
}

static void logits(int n_args, char **argv) {
    const int n = n_args - 3, every = atoi(argv[2]);
    if (n < 1 || every < 1) die("bad numbers", argv[2]);
    llama_token *ids = malloc(n * sizeof *ids);
    for (int i = 0; i < n; i++) ids[i] = atoi(argv[3 + i]);
    struct net net = net_open(argv[1], n < 64 ? 64 : n, !strcmp(argv[0], "exact"));
    net_run(&net, ids, n, 0, 0);
    printf("{");
    print_ids("ids", ids, n);
    printf(",\n\"positions\": [");
    for (int at = every - 1; at < n; at += every) {
        const float *x = llama_get_logits_ith(net.ctx, at);
        printf("%s\n{\"position\": %d, \"logits\": [", at >= every ? "," : "", at);
        for (int i = 0; i < net.n_vocab; i++) printf("%s%.6g", i ? "," : "", x[i]);
        printf("]}");
    }
    printf("]}\n");
    net_close(&net);
}

int main(int argc, char **argv) {
    llama_log_set(quiet, NULL);
    llama_backend_init();
    if (argc == 7 && !strcmp(argv[1], "text")) text(argv + 2);
    else if (argc == 6 && !strcmp(argv[1], "greedy")) greedy(argv + 2);
    else if (argc >= 6 && !strcmp(argv[1], "logits")) logits(argc - 2, argv + 2);
    else die("usage", "text|greedy|logits ... (see the head of oracle.c)");
    return 0;
}
