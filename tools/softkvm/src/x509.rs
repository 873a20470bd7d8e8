//! Certificates and revocation lists in DER (RFC 5280, ITU-T X.690): the shapes that every chain of softkvm's has. Knows no
//! technology, no key and no signature algorithm.

/// Tags of elements that have no function below.
pub mod tag {
    /// BOOLEAN.
    pub const BOOLEAN: u8 = 0x01;
    /// OCTET STRING.
    pub const OCTETS: u8 = 0x04;
    /// ENUMERATED.
    pub const ENUMERATED: u8 = 0x0a;
    /// UTF8String.
    pub const UTF8: u8 = 0x0c;
    /// PrintableString.
    pub const PRINTABLE: u8 = 0x13;
    /// IA5String.
    pub const IA5: u8 = 0x16;
    /// UTCTime.
    pub const UTC: u8 = 0x17;
    /// SET.
    pub const SET: u8 = 0x31;
    /// Constructed, context-specific, by number.
    pub const CONTEXT: [u8; 4] = [0xa0, 0xa1, 0xa2, 0xa3];
    /// Primitive, context-specific, by number.
    pub const IMPLICIT: [u8; 1] = [0x80];
}

/// Object identifiers in DER content form.
mod oid {
    pub const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 0x0e];
    pub const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
    pub const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];
    pub const ORGANISATIONAL_UNIT: &[u8] = &[0x55, 0x04, 0x0b];
    pub const COUNTRY: &[u8] = &[0x55, 0x04, 0x06];
    pub const LOCALITY: &[u8] = &[0x55, 0x04, 0x07];
    pub const STATE: &[u8] = &[0x55, 0x04, 0x08];
    pub const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];
    pub const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
}

/// From when, as UTCTime: the same always, so that equal inputs give equal bytes.
pub const NOT_BEFORE: &[u8] = b"240101000000Z";
/// Until when, as UTCTime.
pub const NOT_AFTER: &[u8] = b"490101000000Z";
/// NULL.
pub const NULL: &[u8] = &[0x05, 0x00];
/// TRUE.
pub const TRUE: &[u8] = &[tag::BOOLEAN, 0x01, 0xff];

/// What a certificate says.
pub struct Certificate<'a> {
    /// Serial number, big endian.
    pub serial: &'a [u8],
    /// AlgorithmIdentifier of the signature.
    pub algorithm: &'a [u8],
    /// Name of who signs.
    pub issuer: &'a [u8],
    /// Name of whose key it is.
    pub subject: &'a [u8],
    /// SubjectPublicKeyInfo.
    pub key: &'a [u8],
    /// Extensions, one after the other.
    pub extensions: &'a [u8],
}

impl Certificate<'_> {
    /// The signed certificate; `sign` gives the content of the signature's bit string.
    pub fn sign(&self, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let validity = sequence(&[&tlv(tag::UTC, NOT_BEFORE), &tlv(tag::UTC, NOT_AFTER)]);
        let body = sequence(&[
            &tlv(tag::CONTEXT[0], &integer(&[2])), // version 3
            &integer(self.serial),
            self.algorithm,
            self.issuer,
            &validity,
            self.subject,
            self.key,
            &tlv(tag::CONTEXT[3], &tlv(SEQUENCE, self.extensions)),
        ]);
        sequence(&[&body, self.algorithm, &bits(&sign(&body), 0)])
    }
}

/// A revocation list without entries.
pub struct RevocationList<'a> {
    /// AlgorithmIdentifier of the signature.
    pub algorithm: &'a [u8],
    /// Name of who signs.
    pub issuer: &'a [u8],
    /// Extensions, one after the other.
    pub extensions: &'a [u8],
}

impl RevocationList<'_> {
    /// The signed list; `sign` gives the content of the signature's bit string.
    pub fn sign(&self, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let body = sequence(&[
            &integer(&[1]), // version 2
            self.algorithm,
            self.issuer,
            &tlv(tag::UTC, NOT_BEFORE),
            &tlv(tag::UTC, NOT_AFTER),
            &tlv(tag::CONTEXT[0], &tlv(SEQUENCE, self.extensions)),
        ]);
        sequence(&[&body, self.algorithm, &bits(&sign(&body), 0)])
    }
}

/// A name of softkvm's.
pub fn name(unit: &str, common: &str) -> Vec<u8> {
    let attribute = |id: &[u8], kind: u8, value: &str| {
        tlv(tag::SET, &sequence(&[&object(id), &tlv(kind, value.as_bytes())]))
    };
    sequence(&[
        &attribute(oid::ORGANISATIONAL_UNIT, tag::UTF8, unit),
        &attribute(oid::COUNTRY, tag::PRINTABLE, "US"),
        &attribute(oid::LOCALITY, tag::UTF8, "Nowhere"),
        &attribute(oid::STATE, tag::UTF8, "None"),
        &attribute(oid::ORGANISATION, tag::UTF8, "softkvm"),
        &attribute(oid::COMMON_NAME, tag::UTF8, common),
    ])
}

/// Extensions of a certificate authority with at most `below` authorities under it.
pub fn authority(below: u8) -> Vec<u8> {
    let constraints = sequence(&[TRUE, &integer(&[below])]);
    // keyCertSign and cRLSign.
    let usage = bits(&[0x06], 1);
    [extension(oid::BASIC_CONSTRAINTS, true, &constraints), extension(oid::KEY_USAGE, true, &usage)]
        .concat()
}

/// Extensions of a certificate whose key signs documents, not certificates.
pub fn signer() -> Vec<u8> {
    // digitalSignature and nonRepudiation.
    let usage = bits(&[0xc0], 6);
    [
        extension(oid::KEY_USAGE, true, &usage),
        extension(oid::BASIC_CONSTRAINTS, true, &sequence(&[])),
    ]
    .concat()
}

/// Extensions that tell keys of equal names apart: the issuer's identifier and the subject's.
pub fn key_identifiers(issuer: &[u8], subject: &[u8]) -> Vec<u8> {
    [authority_key(issuer), extension(oid::SUBJECT_KEY, false, &tlv(tag::OCTETS, subject))].concat()
}

/// Extensions of a revocation list: its number and the issuer's identifier.
pub fn list_identifiers(number: u8, issuer: &[u8]) -> Vec<u8> {
    [extension(oid::CRL_NUMBER, false, &integer(&[number])), authority_key(issuer)].concat()
}

fn authority_key(issuer: &[u8]) -> Vec<u8> {
    extension(oid::AUTHORITY_KEY, false, &sequence(&[&tlv(tag::IMPLICIT[0], issuer)]))
}

/// An extension.
pub fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { TRUE } else { &[] };
    sequence(&[&object(id), critical, &tlv(tag::OCTETS, value)])
}

/// One DER element.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let len = content.len();
    if len < 0x80 {
        out.push(len as u8);
    } else {
        let bytes = (len as u32).to_be_bytes();
        let skip = bytes.iter().take_while(|byte| **byte == 0).count();
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend_from_slice(&bytes[skip..]);
    }
    out.extend_from_slice(content);
    out
}

const SEQUENCE: u8 = 0x30;

/// SEQUENCE.
pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// OBJECT IDENTIFIER.
pub fn object(id: &[u8]) -> Vec<u8> {
    tlv(0x06, id)
}

/// A non-negative INTEGER from its big-endian bytes.
pub fn integer(bytes: &[u8]) -> Vec<u8> {
    let skip = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len() - 1);
    let bytes = &bytes[skip..];
    let sign: &[u8] = if bytes[0] & 0x80 != 0 { &[0] } else { &[] };
    tlv(0x02, &[sign, bytes].concat())
}

/// BIT STRING.
pub fn bits(content: &[u8], unused: u8) -> Vec<u8> {
    tlv(0x03, &[&[unused], content].concat())
}

/// A certificate in PEM.
pub fn pem(der: &[u8]) -> String {
    pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, der).unwrap_or_default()
}
