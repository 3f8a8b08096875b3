//! Answers questions about single functions, one a line: how the tests compare this crate
//! with the Python datapath, which is the reference.
//!
//! A question is a verb and its arguments, numbers and bytes in hexadecimal ("-" for none);
//! an answer is one line. `tests/datapath/native/test_reference.py` asks.

use std::io::{self, BufRead, Write};

use nvpn_core::aead::{BatchAead, RingAead};
use nvpn_core::checksum::{complement, word_sum};
use nvpn_core::coalesce::{Coalescer, HEAD_BYTES, Offers};
use nvpn_core::datagrams::Datagrams;
use nvpn_core::inner;
use nvpn_core::split::{SEND_BYTES, Split};
use nvpn_core::virtio::{VirtioHeader, complete_checksum};

type Answer = Result<String, &'static str>;

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let answer = answer(&mut words).unwrap_or_else(|why| format!("! {why}"));
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer<'a>(words: &mut impl Iterator<Item = &'a str>) -> Answer {
    match words.next().ok_or("no verb")? {
        "sum" => Ok(complement(word_sum(&bytes(words)?)).to_string()),
        "padded" => Ok(inner::padded_size(number(words)?, number(words)?).to_string()),
        "inner" => parse(&bytes(words)?),
        "ecn" => merge_ecn(number(words)? as u8, bytes(words)?),
        "finish" => finish(&bytes(words)?),
        "split" => split(number(words)?, number(words)?, &bytes(words)?),
        "merge" => merge(number(words)?, words),
        "seal" => seal(words),
        "open" => open(words),
        _ => Err("unknown verb"),
    }
}

fn parse(packet: &[u8]) -> Answer {
    let class = inner::traffic_class(packet);
    let Some(parsed) = inner::parse_inner(packet) else {
        return Ok("none".into());
    };
    let payload = inner::udp_payload(packet).map_or("-".into(), |at| at.to_string());
    let tos = inner::outer_tos(class);
    let inner::Inner {
        length,
        source,
        destination,
    } = parsed;
    Ok(format!(
        "{} {length} {source} {destination} {payload} {class} {tos}",
        parsed.version()
    ))
}

fn merge_ecn(tos: u8, mut packet: Vec<u8>) -> Answer {
    let kept = inner::merge_ecn(&mut packet, tos);
    Ok(format!("{} {}", u8::from(kept), hex(&packet)))
}

fn finish(frame: &[u8]) -> Answer {
    let header = VirtioHeader::parse(frame).map_err(|_| "bad frame")?;
    let mut packet = frame[10..].to_vec();
    complete_checksum(&header, &mut packet).map_err(|_| "bad frame")?;
    Ok(hex(&packet))
}

/// The padded plaintexts, a comma behind the last of each send.
fn split(mtu: usize, max_segments: usize, frame: &[u8]) -> Answer {
    let header = VirtioHeader::parse(frame).map_err(|_| "bad frame")?;
    let mut split =
        Split::new(&header, &frame[10..], mtu, max_segments).map_err(|_| "bad frame")?;
    let mut out = Box::new([0xEE; SEND_BYTES]);
    let mut answer = format!("{} {}", split.count(), split.largest());
    while let Some(datagrams) = split.fill(&mut out) {
        for range in datagrams.ranges() {
            answer.push(' ');
            answer.push_str(&hex(&out[range.start + 16..range.end - 16]));
        }
        answer.push_str(" ,");
    }
    Ok(answer)
}

/// `offers` has a bit each for tso, uso and partial; the answer is what is written, and
/// behind a slash how many packets that is.
fn merge<'a>(offers: usize, words: &mut impl Iterator<Item = &'a str>) -> Answer {
    let mut coalescer = Coalescer::new(Offers {
        tso: offers & 1 > 0,
        uso: offers & 2 > 0,
        partial: offers & 4 > 0,
    });
    let (mut buffer, mut places) = (Vec::new(), Vec::new());
    for word in words {
        let start = buffer.len();
        buffer.extend(unhex(word)?);
        places.push(start..buffer.len());
    }
    for place in places {
        coalescer.push(&buffer, place);
    }
    let mut answer = coalescer.len().to_string();
    for index in 0..coalescer.len() {
        let mut head = [0xEE; HEAD_BYTES];
        let write = coalescer
            .write(index, &buffer, &mut head)
            .ok_or("no write")?;
        let whole: Vec<u8> = write
            .head
            .iter()
            .chain(write.pieces().flatten())
            .copied()
            .collect();
        if write.packets().count() != write.count {
            return Err("miscounted");
        }
        answer.push_str(&format!(" {}/{}", hex(&whole), write.count));
    }
    Ok(answer)
}

fn seal<'a>(words: &mut impl Iterator<Item = &'a str>) -> Answer {
    let key = bytes(words)?.try_into().map_err(|_| "no key")?;
    let head = bytes(words)?.try_into().map_err(|_| "no head")?;
    let (counter, stride) = (number(words)?, number(words)?);
    let mut buffer = bytes(words)?;
    let messages = Datagrams::covering(buffer.len(), stride).ok_or("no messages")?;
    RingAead
        .seal(&key, &head, counter as u64, &mut buffer, &messages)
        .map_err(|_| "unsealed")?;
    Ok(hex(&buffer))
}

fn open<'a>(words: &mut impl Iterator<Item = &'a str>) -> Answer {
    let key = bytes(words)?.try_into().map_err(|_| "no key")?;
    let stride = number(words)?;
    let mut buffer = bytes(words)?;
    let messages = Datagrams::covering(buffer.len(), stride).ok_or("no messages")?;
    let opened = RingAead.open(&key, &mut buffer, &messages, u128::MAX);
    Ok(format!("{opened} {}", hex(&buffer)))
}

fn number<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<usize, &'static str> {
    words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or("no number")
}

fn bytes<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Vec<u8>, &'static str> {
    unhex(words.next().ok_or("no bytes")?)
}

fn unhex(word: &str) -> Result<Vec<u8>, &'static str> {
    if word == "-" {
        return Ok(Vec::new());
    }
    word.as_bytes()
        .chunks(2)
        .map(|pair| {
            let digits = core::str::from_utf8(pair).map_err(|_| "no digits")?;
            u8::from_str_radix(digits, 16).map_err(|_| "no digits")
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
