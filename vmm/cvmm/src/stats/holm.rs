//! Many tests at once.

/// Adjusts the p-values of one family so that the chance of a single false claim among all of them stays what each promises (Holm:
/// A Simple Sequentially Rejective Multiple Test Procedure, 1979). The order stays.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut floor = 0.0f64;
    for (done, at) in order.into_iter().enumerate() {
        let left = (p_values.len() - done) as f64;
        floor = floor.max((left * p_values[at]).min(1.0));
        adjusted[at] = floor;
    }
    adjusted
}
