//! Compiling components, in a process of their own.
//!
//! A compiler can't be interrupted from within, and small inputs can keep it busy: 400 KB of nested loops over a few
//! thousand variables take minutes and gigabytes. So the host has a child compile, which is killed when its time is up,
//! gets no more than its memory, gives way to everybody else, and has neither the environment of the host nor its files.
//! What this does not do: shield the host from a compiler that is tricked into emitting code which breaks out.
//!
//! The child reads the component from its standard input and answers on its standard output: one byte that says which of
//! the two follows, then the compiled code or a message.

use crate::{aot, engine, error::LoadError};
use rustix::process::{Resource, Rlimit, Signal};
use std::{
    io::{Read, Write as _},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};
use wasmtime::{Engine, component::Component as Compiled};

const CODE: u8 = b'+';
const MESSAGE: u8 = b'-';

/// What compiled code may take. It is several times as large as the component, and it stays in memory while the component is
/// installed: a language's whole runtime compiles to some 50 MiB.
const LARGEST_CODE: u64 = 256 << 20;

/// How much the child gives way: it takes what the host and its calls leave.
const NICE: i32 = 10;

/// Where components are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// In this process, to the end, whatever that takes: for components that somebody trusts.
    InProcess,
    /// In a child.
    Child(CompilerChild),
}

/// A program that calls [`compile_for_parent`], and how far it may go.
#[derive(Debug, Clone)]
pub struct CompilerChild {
    /// The program.
    pub program: PathBuf,
    /// What it is told; the memory limit in bytes is added.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub time: Duration,
    /// How much memory it may have, in bytes.
    pub memory: u64,
}

impl Compiler {
    /// Compiles. Blocks.
    pub(crate) fn compile(&self, engine: &Engine, wasm: &[u8]) -> Result<Compiled, LoadError> {
        let unsupported = |error: &wasmtime::Error| LoadError::Unsupported(one_line(&format!("{error:#}")));
        match self {
            Self::InProcess => Compiled::from_binary(engine, wasm).map_err(|error| unsupported(&error)),
            Self::Child(child) => {
                let answer = child.compile(wasm)?;
                let code = child.code(&answer)?;
                aot::from_own_child(engine, code).map_err(|error| unsupported(&error))
            }
        }
    }
}

impl CompilerChild {
    /// Has a child compile, and returns what it answered.
    // THREAT[T-box-compile]: what a component does to the compiler, it does to a process that can be killed.
    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .arg(self.memory.to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                tracing::error!(%error, "the compiler's process cannot be started");
                LoadError::Internal
            })?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, receiver) = mpsc::sync_channel(1);
        let answer = thread::scope(|scope| {
            // Both end with the child, which closes the pipes.
            scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(wasm)));
            scope.spawn(move || {
                let mut answer = Vec::new();
                let read = stdout.map(|stdout| stdout.take(LARGEST_CODE + 2).read_to_end(&mut answer));
                // Whoever waited may have given up.
                let _ = sender.send(read.is_some_and(|read| read.is_ok()).then_some(answer));
            });
            let answer = receiver.recv_timeout(self.time);
            // It has answered or it has had its time.
            let _ = child.kill();
            let _ = child.wait();
            answer
        });
        let Ok(answer) = answer else {
            return Err(LoadError::CompileTime { limit: self.time });
        };
        // It died where there is nothing: an allocation that fails ends a process.
        Ok(answer.unwrap_or_default())
    }

    /// The code in an answer, where it is.
    fn code<'a>(&self, answer: &'a [u8]) -> Result<&'a [u8], LoadError> {
        match answer.split_first() {
            Some((&CODE, code)) if code.len() as u64 > LARGEST_CODE => Err(LoadError::CodeSize { limit: LARGEST_CODE }),
            Some((&CODE, code)) => Ok(code),
            Some((&MESSAGE, message)) => Err(LoadError::Unsupported(one_line(&String::from_utf8_lossy(message)))),
            _ => Err(LoadError::CompileMemory { limit: self.memory }),
        }
    }
}

/// What the program of a [`CompilerChild`] does: limits itself to `memory` bytes, compiles what its standard input has,
/// and answers on its standard output.
#[must_use]
pub fn compile_for_parent(memory: u64) -> ExitCode {
    match answer_parent(memory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the compiler failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer_parent(memory: u64) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    for (resource, limit) in [(Resource::Data, memory), (Resource::Core, 0), (Resource::Fsize, 0)] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        rustix::process::setrlimit(resource, limit)?;
    }
    // Refused where it is nice already.
    let _ = rustix::process::nice(NICE);
    let mut wasm = Vec::new();
    std::io::stdin().lock().read_to_end(&mut wasm)?;
    let mut out = std::io::stdout().lock();
    match engine::for_compiling().and_then(|engine| engine.precompile_component(&wasm)) {
        Ok(code) => {
            out.write_all(&[CODE])?;
            out.write_all(&code)?;
        }
        Err(error) => {
            out.write_all(&[MESSAGE])?;
            write!(out, "{error:#}")?;
        }
    }
    out.flush()
}

/// An error of wasmtime for whoever installs: what is wrong with the component, on one line.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 2000;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line[..line.floor_char_boundary(LONGEST)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_code_that_is_not_too_large_or_words_or_nothing() {
        let child = CompilerChild {
            program: PathBuf::new(),
            arguments: Vec::new(),
            time: Duration::ZERO,
            memory: 1,
        };
        assert_eq!(child.code(b"+code").unwrap(), b"code");
        assert!(matches!(child.code(b"-words"), Err(LoadError::Unsupported(words)) if words == "words"));
        assert!(matches!(child.code(b""), Err(LoadError::CompileMemory { limit: 1 })));
        let mut large = vec![0; usize::try_from(LARGEST_CODE).unwrap() + 2];
        large[0] = CODE;
        assert!(matches!(child.code(&large), Err(LoadError::CodeSize { .. })));
    }
}
