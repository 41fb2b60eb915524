//! The smallest use of the engine: greedy tokens after a prompt.
//! `cargo run --release -p lowtide-engine --example answer -- MODEL "PROMPT" [TOKENS] [MEMORY_BYTES]`
use std::io::Write;

use lowtide_engine::{Engine, LoadOptions, Logits, MemoryLimit, Model, Session};
use lowtide_tokenizer::{EncodeOptions, StreamDecoder};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, prompt, rest @ ..] = args.as_slice() else { return Err("MODEL PROMPT".into()) };
    let begin = std::time::Instant::now();
    let model = Model::open(path.as_ref())?;
    let options = EncodeOptions { add_special: true, parse_special: true };
    let ids = model.tokenizer().encode(prompt, options);
    let mut load = LoadOptions { prompt_tokens: ids.len(), ..LoadOptions::default() };
    load.tokens_needed = ids.len() + rest.first().map_or(Ok(32), |n| n.parse())?;
    if let Some(bytes) = rest.get(1) {
        load.memory = MemoryLimit::Bytes(bytes.parse()?);
    }
    let mut engine = Engine::new(model, &load)?;
    eprintln!(
        "load {:.3} s, {} tokens, isa {}, budget {:#?}",
        begin.elapsed().as_secs_f64(),
        ids.len(),
        engine.isa().name(),
        engine.budget()
    );
    let mut session = Session::new(&engine)?;
    let max_tokens = rest.first().map_or(Ok(32), |n| n.parse())?;
    let begin = std::time::Instant::now();
    let mut next = ids.clone();
    let mut out: Vec<u32> = Vec::new();
    while out.len() < max_tokens {
        session.forward(&mut engine, &next, Logits::Last, &mut |_, _| {})?;
        let logits = session.last_logits();
        let best = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
        out.push(best as u32);
        next = vec![best as u32];
    }
    let seconds = begin.elapsed().as_secs_f64();
    let mut decoder = StreamDecoder::new(engine.tokenizer(), false);
    for id in &out {
        print!("{}", decoder.push(*id));
    }
    println!("{}", decoder.finish());
    std::io::stdout().flush()?;
    eprintln!("{:.1} tokens/s\n{:#?}", out.len() as f64 / seconds, engine.store().stats());
    Ok(())
}
