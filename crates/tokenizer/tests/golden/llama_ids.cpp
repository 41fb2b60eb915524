// Prints what llama.cpp makes of texts: llama_ids MODEL.gguf [--pre NAME] [--special] [--add] < texts
// Texts are separated by NUL bytes; one line of ids is printed for each. Like the example `tokens` of this crate,
// with which it is compared. Build: c++ llama_ids.cpp -I llama.cpp/include -I llama.cpp/ggml/include -lllama -lggml-base
#include "llama.h"

#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

int main(int argc, char ** argv) {
    std::string pre;
    bool special = false;
    bool add = false;
    for (int i = 2; i < argc; i++) {
        const std::string arg = argv[i];
        if (arg == "--pre" && i + 1 < argc) {
            pre = argv[++i];
        } else if (arg == "--special") {
            special = true;
        } else if (arg == "--add") {
            add = true;
        }
    }
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_model_kv_override overrides[2];
    memset(overrides, 0, sizeof overrides);
    auto params = llama_model_default_params();
    params.vocab_only = true;
    if (!pre.empty()) {
        overrides[0].tag = LLAMA_KV_OVERRIDE_TYPE_STR;
        strcpy(overrides[0].key, "tokenizer.ggml.pre");
        strncpy(overrides[0].val_str, pre.c_str(), sizeof overrides[0].val_str - 1);
        params.kv_overrides = overrides;
    }
    llama_model * model = argc < 2 ? nullptr : llama_model_load_from_file(argv[1], params);
    if (model == nullptr) {
        return 1;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const std::string input((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    size_t start = 0;
    while (true) {
        const size_t end = input.find('\0', start);
        const std::string text = input.substr(start, end == std::string::npos ? end : end - start);
        std::vector<llama_token> ids(text.size() * 4 + 16);
        const int count = llama_tokenize(vocab, text.data(), text.size(), ids.data(), ids.size(), add, special);
        for (int i = 0; i < count; i++) {
            printf(i == 0 ? "%d" : " %d", ids[i]);
        }
        puts("");
        if (end == std::string::npos) {
            return 0;
        }
        start = end + 1;
    }
}
