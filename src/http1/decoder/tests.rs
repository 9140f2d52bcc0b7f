//! Bodies, whole and in pieces.

use proptest::{collection::vec, prelude::*};

use super::*;

/// What a body brings, and what is left behind it.
fn decoded(
    framing: BodyDecoder,
    pieces: &[&[u8]],
) -> Result<(Vec<u8>, bool, Vec<u8>), &'static str> {
    let (mut framing, mut input, mut body) = (framing, BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        while let DecodeResult::Data(data) = framing.decode(&mut input).map_err(|_| "chunks")? {
            body.extend_from_slice(&data);
        }
    }
    Ok((body, framing.is_ended(), input.to_vec()))
}

#[test]
fn b5_chunks_have_one_reading() {
    let bad = [
        "\r\n",
        "g\r\n",
        "0x1\r\na\r\n",
        "1 \r\na\r\n",
        "1\na\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1;a\n",
        "1\ra",
        "-1\r\n",
        "+1\r\n",
        "11111111111111111\r\n",
        "00000000000000001\r\na",
        "0\r\na: b\n\r\n",
        "0\r\na: b\rc",
        "0\r\n\rx",
        "0\r\n\n",
    ];
    for body in bad {
        assert_eq!(decoded(BodyDecoder::CHUNKED, &[body.as_bytes()]), Err("chunks"), "{body:?}");
    }
    assert_eq!(bad.len(), 17);
}

#[test]
fn where_bodies_end() {
    let cases = [
        (BodyDecoder::Done, "abc", "", true, "abc"),
        (BodyDecoder::of(0), "abc", "", true, "abc"),
        (BodyDecoder::of(2), "abc", "ab", true, "c"),
        (BodyDecoder::of(4), "abc", "abc", false, ""),
        (BodyDecoder::CloseDelimited, "abc", "abc", false, ""),
        (BodyDecoder::CHUNKED, "3;x\r\nabc\r\n0\r\nt: 1\r\n\r\nGET", "abc", true, "GET"),
        (BodyDecoder::CHUNKED, "3\r\nabc\r\n", "abc", false, ""),
    ];
    for (framing, input, body, ended, rest) in cases {
        let expected = (body.as_bytes().to_vec(), ended, rest.as_bytes().to_vec());
        assert_eq!(decoded(framing, &[input.as_bytes()]), Ok(expected), "{framing:?} {input:?}");
    }
}

#[test]
fn g5_what_is_no_body_has_an_end() {
    let extension = format!("1;{}\r\na\r\n", "x".repeat(5000));
    assert!(decoded(BodyDecoder::CHUNKED, &[extension.repeat(3).as_bytes()]).is_ok());
    assert_eq!(decoded(BodyDecoder::CHUNKED, &[extension.repeat(4).as_bytes()]), Err("chunks"));
    let trailers = format!("0\r\n{}", "a: b\r\n".repeat(5000));
    assert_eq!(decoded(BodyDecoder::CHUNKED, &[trailers.as_bytes()]), Err("chunks"));
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_are_dealt_out(
        chunks in vec(vec(any::<u8>(), 1..40), 0..6),
        rest in vec(any::<u8>(), 0..9),
        sizes in vec(1_usize..9, 1..9),
    ) {
        let mut bytes: Vec<u8> = chunks
            .iter()
            .flat_map(|chunk| {
                let size = format!("{:X}\r\n", chunk.len()).into_bytes();
                [size, chunk.clone(), b"\r\n".to_vec()].concat()
            })
            .collect();
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes.extend_from_slice(&rest);
        let (mut left, mut sizes, mut dealt) = (&*bytes, sizes.iter().cycle(), Vec::new());
        while !left.is_empty() {
            let (piece, tail) = left.split_at(left.len().min(*sizes.next().unwrap()));
            dealt.push(piece);
            left = tail;
        }
        let expected = Ok((chunks.concat(), true, rest));
        prop_assert_eq!(&decoded(BodyDecoder::CHUNKED, &[&bytes]), &expected);
        prop_assert_eq!(&decoded(BodyDecoder::CHUNKED, &dealt), &expected);
    }
}
